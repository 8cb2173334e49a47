"""Classify alerts from Kafka: every message is written exactly once."""
