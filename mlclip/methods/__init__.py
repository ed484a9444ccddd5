"""The equations of the two papers and of the methods beyond them: pure functions of tensors with worked examples."""
