import "./app.css";

export default function App({ words }) {
  return <p>{words}</p>;
}
