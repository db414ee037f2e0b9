"""What came of a drive: judgement, record, table, film."""
