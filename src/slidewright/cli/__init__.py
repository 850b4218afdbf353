"""The command line: one file a verb, `main` around them. Importing it imports click and nothing heavy."""
