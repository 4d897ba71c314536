export default function Hello({ params }) {
  return <p>{`Hello, ${params.name}`}</p>;
}
