"""crm-sync: every event to the CRM, and what it changes to the state topics."""
