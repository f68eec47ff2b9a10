"""What there is and what to do: survey and plan."""
