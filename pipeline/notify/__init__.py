"""Tells people: incidents to Alertmanager, webhooks, mail, chat and commands."""
