"""Alerts from Kafka: each message classified and written exactly once."""
