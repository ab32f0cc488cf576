"""Where does its error come from?"""
