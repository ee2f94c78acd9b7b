"""What the commands share; nothing below this floor imports it."""
