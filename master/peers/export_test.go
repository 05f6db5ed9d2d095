package peers

// Surplus is for its test.
var Surplus = surplus
