"""Count networks, compare their forms, and draw training logs."""
