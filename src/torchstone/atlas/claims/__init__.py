"""One claim a file, in a folder a theme."""
