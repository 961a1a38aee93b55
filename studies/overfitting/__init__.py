"""Do runs overfit less with a method? A study on the records of comparisons.

``python studies/overfitting FOLDERS`` runs it. The result is in docs/results/overfitting.md.
"""
