"""SAK, "Swiss Army Knife" (Lu, Cao and Wang, ICLR 2025): the whole method in one folder."""
