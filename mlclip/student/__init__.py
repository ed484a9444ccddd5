"""The classifier: its network, its initial weights, its file, prediction, heat maps, calibration, export."""
