"""The report: a pure function of an examination, as one HTML file, Markdown or a terminal screen.

Nothing here measures. Every page can be drawn again, years later, from `examination.json` alone.
"""
