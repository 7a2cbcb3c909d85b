"""Study and run reports."""
