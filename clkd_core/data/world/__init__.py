"""The synthetic world: seeded drives whose causes can be seen, rendered and written as a set."""
