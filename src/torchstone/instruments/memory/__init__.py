"""What did it memorise, and is the data clean?"""
