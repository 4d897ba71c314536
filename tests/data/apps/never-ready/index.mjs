// Runs, but never listens: its deploy has to fail by the start-up timeout.

console.log("still warming up");
setInterval(() => {}, 60_000);
