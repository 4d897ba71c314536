import "./style.css";

const heading = document.createElement("h1");
heading.textContent = `The first edition, at ${location.pathname}`;
document.getElementById("root").append(heading);
