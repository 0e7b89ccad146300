"""The coordinator: finds devices, plans which variant of which stage runs where, rolls plans out and watches them."""
