// Ends at once: its deploy has to fail at once, with this line.

console.error("boom: cannot connect to db");
process.exit(3);
