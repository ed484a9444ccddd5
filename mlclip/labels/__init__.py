"""The table of photos × classes, its files, class names, data sets, metrics, and what looks wrong with a table."""
