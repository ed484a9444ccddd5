"""The table of photos × classes, its files, class names, data sets, metrics, and checks that find weak labels."""
