"""What the consumers share: membership, assignment, polling, dead letters, metrics. Their own work is a Work."""
