"""Engines that are not this machine's processes; each is imported only when it is asked for."""
