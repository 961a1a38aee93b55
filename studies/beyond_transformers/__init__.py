"""Do the hidden position's patterns help a recurrent and a convolutional network? A study.

``python studies/beyond_transformers --help`` shows its settings.
"""
