import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import "./style.css";

const App = () => <h1>The first edition, at {location.pathname}</h1>;

createRoot(document.getElementById("root")).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
