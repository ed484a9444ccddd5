"""The equations of the papers and of the methods beyond them: pure functions of tensors, each with a worked example."""
