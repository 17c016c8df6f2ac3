"""What a fitted model is for: free functions on any model that has the capability. No family is named here."""
