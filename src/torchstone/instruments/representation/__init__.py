"""What do its layers represent?"""
