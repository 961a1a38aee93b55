"""Does one dropout rate serve all tasks? A study on the records of a comparison of several rates.

``python studies/rate_transfer FOLDERS`` runs it. The result is in docs/results/rate_transfer.md.
"""
