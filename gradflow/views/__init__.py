"""What a person sees: the picture of a plan, the live view of a run. Views read programs and events; nothing depends on them but the commands."""
