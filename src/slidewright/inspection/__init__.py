"""Looking at files: what a slide is, whether a written file is right, how its pixels compare with a source."""
