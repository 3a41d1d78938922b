"""Studies: the same users under several arms, over seeds, told as differences from a control."""
