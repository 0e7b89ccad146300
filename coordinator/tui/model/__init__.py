"""What is shown, computed from the fleet, its samples, plans and journal. Pure: no Textual, no I/O, no clock."""
