"""Does it train well?"""
