"""How a report looks: the page, its tables, cards and drawings, its style sheet."""
