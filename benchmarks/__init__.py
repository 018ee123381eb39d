"""`make bench`: this workbook's client beside the others, on a server whose every token's instant is known."""
