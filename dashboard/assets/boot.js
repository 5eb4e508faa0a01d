// In a file, because the document has no inline scripts.
var renderer = new DashRenderer();
