"""How results are shown: words, numbers, tables, pages, the canvas of figures."""
