"""What nodes and direct replay both call: decoding, set matching, engines, deadlines."""
