"""What a run's folder holds becomes a report, a comparison or a history."""
