"""The ledger of calls: every try, what it cost, and the teacher that answers from it."""
