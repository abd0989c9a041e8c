"""The cellar: words every storey shares and none of which knows a storey above."""
