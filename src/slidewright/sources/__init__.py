"""Where pixels come from: `base` declares what a source is, one module knows each kind, `open` tells which it is."""
