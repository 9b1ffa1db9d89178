"""Draw the street scenes that the demo trains on."""
