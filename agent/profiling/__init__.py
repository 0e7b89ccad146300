"""What this device is and how fast it is: fingerprint, emulation of slower devices, benchmark."""
