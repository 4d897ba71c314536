export default async function Hello({ params }) {
  const { name } = await params;
  return <p>{`Hello, ${name}`}</p>;
}
