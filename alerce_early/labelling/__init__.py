"""Label alerts in the browser: queues, sessions, the page and its server, and the CSV of labels."""
