"""Will it hold on new data?"""
