"""The classifier: its network, initial weights, checkpoint file, prediction, heat maps, calibration and export."""
